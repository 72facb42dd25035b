"""Optuna's database storage, which also gives up trials whose worker died before its first sign of life."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from optuna.storages import RDBStorage
from optuna.storages._rdb import models  # heartbeats can only be asked for here
from optuna.trial import TrialState


class LivingDatabase(RDBStorage):
    """RDBStorage for which a trial without any heartbeat is stale after twice the grace period.

    Optuna's own looks at trials that have a heartbeat: one whose worker was killed between its first line and its first
    heartbeat would run for ever, and the study would wait for it. Twice, because its start is by its machine's clock.
    """

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        stale = super()._get_stale_trial_ids(study_id)
        oldest = datetime.now() - timedelta(seconds=2 * self._grace_s)
        running = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
        late = [t._trial_id for t in running if t.datetime_start is not None and t.datetime_start < oldest]
        return stale + [trial_id for trial_id in late if trial_id not in stale and not self._has_beaten(trial_id)]

    @property
    def _grace_s(self) -> int:
        assert self.grace_period is not None
        return int(self.grace_period)

    def _has_beaten(self, trial_id: int) -> bool:
        session: Any = self.scoped_session()
        try:
            return models.TrialHeartbeatModel.where_trial_id(trial_id, session) is not None
        finally:
            session.rollback()
