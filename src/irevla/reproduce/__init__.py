"""The paper's tables and figures, made anew: which runs each needs, and what is drawn of them."""
