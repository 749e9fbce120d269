"""memrl: reinforcement learning with memory in JAX.

A policy is an encoder, a memory and two heads; every memory obeys one contract (`memrl.memory.base`), one PPO
(`memrl.ppo`) trains them all, and one evaluator (`memrl.evaluation`) asks them all the same questions.
"""

__version__ = "0.1.0"
