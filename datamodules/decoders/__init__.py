"""The decoding backends, one file each; `datamodules.decoding` is the way in."""
