"""How the model learns: supervised (stages 0 and 2), by PPO or SAC (stage 1)."""
