"""Ways to an arm. `irevla.robot.cell` alone imports them, for `SafeArm` (import-linter
checks it)."""
