"""How long the arm, or its simulation, moved in training, and what an hour of it brought."""

from irevla.config import EnvConfig
from irevla.envs.suite import SUITES, load_suite
from irevla.errors import UserError
from irevla.evaluation.stats import Change, Results


def seconds_of_decision(results: Results) -> float | None:
    """Return how long a decision takes the arm; None where that is not known here.

    A suite that these results alone name may be code from elsewhere: it is not run for a number.
    A suite of ours may need a package that is not here: its results are read without it.
    """
    settings = results.settings
    if settings["suite"] not in SUITES:
        return None
    env = EnvConfig(action_repeat=int(settings["env"]["action_repeat"]))
    try:
        return 1 / load_suite(str(settings["suite"])).rate(env)
    except UserError:
        return None


def robot_hours(results: Results) -> float | None:
    """Return the time of the arm in training: zero-shot successes, RL and harvests of all tasks.

    None where it is not known.
    """
    seconds = seconds_of_decision(results)
    if seconds is None or results.practice is None:
        return None
    return results.practice * seconds / 3600


def per_hour(what: Change | None, hours: float | None) -> Change | None:
    """Return a change of a rate as so much in an hour of practice; None without practice."""
    if what is None or not hours:
        return None
    low, high = what.ci95
    return Change(what.difference / hours, (low / hours, high / hours))
