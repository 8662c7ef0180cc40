"""One module for each skill; every module exposes it as `SKILL`."""
