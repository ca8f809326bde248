"""Looks at a run: `python docs/example_analysis.py RESULTS PICTURE.png`.

Or cell by cell, in an editor that knows `# %%`. RESULTS is an output folder, or the folder of one
config in it.
"""

# %%
import sys

import matplotlib as mpl

if "ipykernel" not in sys.modules:
    mpl.use("Agg")
import matplotlib.pyplot as plt

from clip_pkg import load_run

given = [word for word in sys.argv[1:] if not word.startswith("-")]
results, picture = given if len(given) == 2 else ("checkpoints/clip_models", "analysis.png")
run = load_run(results)

# %% [markdown]
# A table: scores over folds at the last epoch, which were not chosen, beside those at the best one.

# %%
scores = run.summaries[run.summaries.score.isin(["acc", "balanced_acc", "f1", "auroc"])]
table = scores.pivot_table(
    index="config", columns=["score", "epoch"], values=["mean", "std"], sort=False
)
print(table.round(3).to_string())

# %% [markdown]
# Which images do most configs get wrong?

# %%
wrong = run.predictions.groupby("path").correct.mean().sort_values()
print(wrong.head(10).to_string())

# %% [markdown]
# A picture: validation accuracy over epochs, a line per config, a band of one standard deviation
# over its folds; and recall by class with its confidence interval.

# %%
figure, (curves, classes) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for config, history in run.histories.groupby("config", sort=False):
    by_epoch = history.groupby("epoch").val_acc
    mean, deviation = by_epoch.mean(), by_epoch.std().fillna(0)
    curves.plot(mean.index, mean, label=config)
    curves.fill_between(mean.index, mean - deviation, mean + deviation, alpha=0.2)
curves.set(xlabel="Epoch", ylabel="Validation accuracy, %")
curves.legend(frameon=False)

names = list(dict.fromkeys(run.per_class["class"]))
for number, (config, found) in enumerate(run.per_class.groupby("config", sort=False)):
    rows = found.set_index("class").reindex(names)
    places = [position + 0.15 * number for position in range(len(names))]
    below, above = rows.recall - rows.recall_low, rows.recall_high - rows.recall
    classes.errorbar(places, rows.recall, [below, above], fmt="o", capsize=3, label=config)
classes.set(xticks=range(len(names)), xticklabels=names, ylabel="Recall, 95 % interval")
figure.savefig(picture, dpi=110)
