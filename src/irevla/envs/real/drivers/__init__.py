"""Ways to an arm. `irevla.envs.real.connect` alone imports them, for `SafeArm` (import-linter
checks it)."""
