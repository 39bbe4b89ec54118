"""Whether final losses of two arms measure the same thing; if not, why not.

A loss in nats a token compares where the same targets were judged (same hash `judged`). Bits per byte also compare
where the same text was judged by other tokens (same hash `text`). Training losses compare where the same data was
trained on. Runs of earlier versions recorded no hashes: there the settings decide, and a known run does not compare
with them.
"""

# Settings by which runs of earlier versions came to judge other targets.
DECIDING = {"validation_loss": "data.validation data.ignore_token evaluation.tokens batch.micro_batch_size "
                               "model.sequence_length model.vocabulary".split(),
            "train_loss": "data.train data.ignore_token model.vocabulary".split()}
HASH = {"validation_loss": "judged", "bits_per_byte": "text", "train_loss": "training_shards"}


def known(arm, column, loss):
    """The values of a column of runs.csv in the arm's runs that have this loss; "" for runs that did not record it."""
    return {run[column] for run in arm.shown_runs if run[loss] is not None}


def identities(arm, loss):
    """What the arm's losses measure; empty where it has none."""
    return {(run[HASH[loss]], run["tokenizer"] if loss == "train_loss" else "")
            for run in arm.shown_runs if run[loss] is not None}


def own_reason(arm, loss):
    """Why the seeds of one arm cannot be averaged; "" if they can."""
    return "its runs differ in their data" if len(identities(arm, loss)) > 1 else ""


def why_not(arm, other, loss):
    """"" if the final losses of the two arms may be compared, or one has none; else the reason in a few words."""
    if reason := own_reason(arm, loss) or own_reason(other, loss):
        return reason
    mine, theirs = identities(arm, loss), identities(other, loss)
    if arm is other or not mine or not theirs:
        return ""
    unknown = [{""} == known(one, HASH[loss], loss) for one in (arm, other)]
    if any(unknown):
        return by_settings(arm, other, loss) if all(unknown) else "what was judged is not recorded for one of the two"
    if mine == theirs:
        return ""
    tokenizers, texts = (known(arm, column, loss) | known(other, column, loss) for column in ("tokenizer", "text"))
    if len(tokenizers) > 1:
        partly = loss == "validation_loss" and "" not in tokenizers and "" in texts
        return "another tokenizer" + " (evaluation.tokens 0 would allow bits per byte)" * partly
    if loss == "train_loss":
        return "other training data"
    if known(arm, "validation_shards", loss) != known(other, "validation_shards", loss):
        return "other validation data"
    return "other targets of the same validation data"


def by_settings(arm, other, loss):
    """Both unknown. Bits per byte are never taken for the same on trust."""
    differing = [key for key in DECIDING.get(loss, []) if arm.settings.get(key) != other.settings.get(key)]
    if loss == "bits_per_byte":
        return "what was judged is not recorded"
    return f"what was judged is not recorded, and {differing[0]} differs" if differing else ""


def unrecorded(study):
    """Whether some run's record does not say what its loss measures."""
    return any("" in known(arm, HASH[study.loss], study.loss) for arm in study.arms)


def choose_loss(arms):
    """The loss that a study compares: validation's; in bits per byte where only the text is the same; training's where
    nothing was validated."""
    judged = [arm for arm in arms if identities(arm, "validation_loss")]
    if not judged:
        return "train_loss"
    alike = not any(why_not(arm, judged[0], "validation_loss") for arm in judged)
    texts = set().union(*(known(arm, "text", "validation_loss") for arm in judged))
    measured = all(known(arm, "text", "bits_per_byte") for arm in judged)
    return "bits_per_byte" if not alike and len(texts) == 1 and "" not in texts and measured else "validation_loss"
