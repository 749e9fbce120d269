"""Runs a tool on several processes or machines at once: the same command on each of them, differing in `--process-id`.

    python -m experiments.distributed --coordinator HOST:PORT --num-processes 2 --process-id 0 \\
        run --config memo_gridworld_paper --output runs/paper

Under SLURM, Open MPI or on TPUs, where JAX finds this out by itself, leave the three options out. All processes need to
see the same `--output`.
"""

import argparse
import runpy
import sys

from memrl.sharding import start_processes


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.distributed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="the process with id 0")
    parser.add_argument("--num-processes", type=int, help="how many processes there are")
    parser.add_argument("--process-id", type=int, help="which of them this one is, from 0")
    parser.add_argument("tool", choices=["run"], help="experiments.TOOL")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    options = parser.parse_args()
    # Before the tool is imported: gymnax asks for devices when it is.
    start_processes(options.coordinator, options.num_processes, options.process_id)
    sys.argv[1:] = options.arguments
    runpy.run_module(f"experiments.{options.tool}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
