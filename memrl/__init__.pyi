# The public names of memrl: `__init__.py` imports them from here, and type checkers read them.

from .checkpoint import Checkpointer as Checkpointer
from .checkpoint import CheckpointError as CheckpointError
from .environment import Hooks as Hooks
from .environment import hooks as hooks
from .evaluation import EvaluationConfig as EvaluationConfig
from .evaluation import Setting as Setting
from .evaluation import evaluate as evaluate
from .evaluation import record_trial as record_trial
from .introspection import sample_memories as sample_memories
from .introspection import trace_trial as trace_trial
from .memory import MEMORIES as MEMORIES
from .memory import Memory as Memory
from .memory import MemoryConfig as MemoryConfig
from .networks import ActorCritic as ActorCritic
from .networks import Inputs as Inputs
from .networks import NetworkConfig as NetworkConfig
from .networks import Outputs as Outputs
from .networks import observation_kinds as observation_kinds
from .ppo import PPOConfig as PPOConfig
from .rollout import ActorState as ActorState
from .rollout import Trajectory as Trajectory
from .rollout import initial_actor_state as initial_actor_state
from .tracking import Tracker as Tracker
from .training import Settings as Settings
from .training import Training as Training
from .training import TrainState as TrainState
from .training import make_training as make_training

__version__: str
