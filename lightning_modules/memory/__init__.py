"""Parts of a long memory: what is remembered, which moments it is asked at, and which steps ask it."""
