"""What the box of Algorithm 1 calls. All stages have one contract: `run_...(run, policy, stage,
...)`.

A stage that the journal says is done gives the policy the weights that it ended with. Else it goes
on from its newest checkpoint, loops, saves, logs, and is completed: `contract` has what they share.
"""
