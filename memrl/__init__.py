"""memrl: reinforcement learning with memory in JAX.

A policy is an encoder, a memory and two heads; every memory obeys one contract (`memrl.memory.base`), one PPO
(`memrl.ppo`) trains them all, and one evaluator (`memrl.evaluation`) asks them all the same questions.

The public names stand in `__init__.pyi`. Each is imported when it is first used, so that `import memrl` is quick.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
