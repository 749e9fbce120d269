"""Memories: one file per family, one contract (`memrl.memory.base`), one registry."""

from memrl.memory import laws
from memrl.memory.base import Attention, Memory, MemoryConfig, parameter_dtype, rows, select, state_bytes_per_env
from memrl.memory.delta_rule import DeltaNet, GatedDeltaNet
from memrl.memory.ffm import FFM
from memrl.memory.frame_stack import FrameStack
from memrl.memory.hcam import HCAM
from memrl.memory.linear_attention import LinearAttention
from memrl.memory.lru import LRU
from memrl.memory.memo import RMT, AutoCompressor, Memo
from memrl.memory.mingru import MinGRU
from memrl.memory.mlstm import MLSTM
from memrl.memory.none import NoMemory
from memrl.memory.recurrent import GRU, LSTM, Elman
from memrl.memory.s5 import S5
from memrl.memory.shm import SHM
from memrl.memory.transformer import FCT
from memrl.memory.transformer_xl import GTrXL, TrXL

MEMORIES: dict[str, type[MemoryConfig]] = {
    "none": NoMemory,
    "frame_stack": FrameStack,
    "elman": Elman,
    "gru": GRU,
    "lstm": LSTM,
    "lru": LRU,
    "s5": S5,
    "mingru": MinGRU,
    "ffm": FFM,
    "linear_attention": LinearAttention,
    "mlstm": MLSTM,
    "shm": SHM,
    "deltanet": DeltaNet,
    "gated_deltanet": GatedDeltaNet,
    "fct": FCT,
    "trxl": TrXL,
    "gtrxl": GTrXL,
    "memo": Memo,
    "rmt": RMT,
    "ac": AutoCompressor,
    "hcam": HCAM,
}
"""Every memory by name. A memory listed here goes through the law tests and can be named on the command line."""

__all__ = [
    "FCT",
    "FFM",
    "GRU",
    "HCAM",
    "LRU",
    "LSTM",
    "MEMORIES",
    "MLSTM",
    "RMT",
    "S5",
    "SHM",
    "Attention",
    "AutoCompressor",
    "DeltaNet",
    "Elman",
    "FrameStack",
    "GTrXL",
    "GatedDeltaNet",
    "LinearAttention",
    "Memo",
    "Memory",
    "MemoryConfig",
    "MinGRU",
    "NoMemory",
    "TrXL",
    "laws",
    "parameter_dtype",
    "rows",
    "select",
    "state_bytes_per_env",
]
