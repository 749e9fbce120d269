"""Inside a memory: what a frozen policy attends to, how far its gates are open, and what can be decoded from its state.

`trace_trial` follows one trial step by step. `sample_memories` looks into the memories of many at random moments after
something was seen, and `accuracy_by_age` asks how often a linear classifier can decode from them what it was.

The acting is that of evaluation: actions are sampled, and a trial of a fixed length never ends on the way. What
happens inside is what memories sow into Flax's `intermediates`. What was to be remembered is what the
environment's `facts` say; see `envs.base.Environment`.
"""

from memrl.introspection.probe import (
    FEWEST,
    PROJECTED,
    TRAINING_SHARE,
    Samples,
    accuracy_by_age,
    age_groups,
    flatten_state,
    sample_memories,
    sources,
    state_size,
)
from memrl.introspection.trace import Gate, Look, Trace, attention_map, trace_trial
from memrl.memory.base import Attention

__all__ = [
    "FEWEST",
    "PROJECTED",
    "TRAINING_SHARE",
    "Attention",
    "Gate",
    "Look",
    "Samples",
    "Trace",
    "accuracy_by_age",
    "age_groups",
    "attention_map",
    "flatten_state",
    "sample_memories",
    "sources",
    "state_size",
    "trace_trial",
]
