"""The folders of runs: one of them, all below a folder, and those that differ in nothing but their seed."""
