"""How the model learns: supervised (stages 0 and 2) and by PPO (stage 1)."""
