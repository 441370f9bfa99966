"""
Text labelled by keyword rules
==============================

Nobody has labelled the sentences, but a few rules are quick to write: a sentence with the word
*oven* is about the kitchen. Rules are wrong now and then, and many sentences meet none. This is
weak supervision. Here its labels go into ``CLIDMUClassifier``, with the sparse matrix of a
``TfidfVectorizer`` in front.
"""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline

from sklearn_clidmu import (
    CLIDMUClassifier,
    NoiseMatrixDisplay,
    NoiseScoreDisplay,
    find_label_issues,
    noisy_label_scorer,
)

# %%
# The sentences
# -------------
# 800 of them in four topics, put together from who did what to what, where, and a detail. The
# details say nothing of the topic: a gardener, too, may have bread at hand.

TOPICS = {
    "kitchen": (
        "The cook|My aunt|The baker|A hungry guest|The young chef|The dinner lady",
        "stirred|salted|tasted|warmed|served|burned|seasoned|reheated",
        "soup|sauce|stew|onions|potatoes|pie|omelette|pasta|broth|porridge|dumplings|roast",
        "at the stove|in the oven|in the canteen|at the counter|in a large pan|over a low flame",
    ),
    "garden": (
        "The gardener|Our neighbour|My grandfather|The new owner|A volunteer|The florist",
        "watered|planted|pruned|covered|dug up|trimmed|weeded|tied up",
        "roses|beans|hedge|lemon tree|lettuce|tulips|carrots|shrubs|vines|lilies|seedlings|ivy",
        "along the wall|in the raised bed|behind the shed|around the lawn|by the fence|in the mud",
    ),
    "sea": (
        "The captain|A sailor|The harbour pilot|The fisherman|The skipper|The cabin boy",
        "mended|hoisted|hauled in|dried|stowed|untangled|lowered|lost",
        "sail|nets|anchor|ropes|dinghy|jib|flag|lobster traps|fishing lines|lifeboat|oars|buoy",
        "on deck|off the reef|in the harbour|at the quay|under the mast|in the swell",
    ),
    "railway": (
        "The driver|The guard|A signalman|The station master|The conductor|The dispatcher",
        "stopped|held|announced|inspected|slowed|met|cancelled|coupled",
        "express|night service|freight wagons|sleeper|shuttle|engine|tram|railcar|locomotive|"
        "carriages|connection|steam special",
        "at the platform|in the tunnel|at the junction|near the depot|on the branch line|"
        "at the crossing",
    ),
}
DETAILS = [
    *("beside a pot", "with some bread", "among the leaves", "behind a flower"),
    *("by the water", "beyond a ship", "before the train", "without a timetable"),
    *("on a quiet morning", "without a word", "late in the afternoon", "in good spirits"),
    *("in the end", "as always", "once more", "with no hurry"),
    *("for the second time", "although it was Sunday", "after a long break", "with great care"),
]

N_PER_TOPIC = 200

rng = np.random.default_rng(0)
sentences = []
for slots in TOPICS.values():
    words = [rng.choice(slot.split("|"), N_PER_TOPIC) for slot in slots]
    for who, did, what, where, detail in zip(*words, rng.choice(DETAILS, N_PER_TOPIC), strict=True):
        sentences.append(f"{who} {did} the {what} {where} {detail}.")
y = np.repeat(list(TOPICS), N_PER_TOPIC)
train, test, y_train, y_test = train_test_split(
    np.array(sentences), y, test_size=200, stratify=y, random_state=0
)

# %%
# The rules
# ---------
# The last keyword in a sentence decides. Where there is none, there is no label, which is written
# as an empty string.

KEYWORDS = {
    "kitchen": "pot bread oven pan stove soup sauce stew pie roast cook chef",
    "garden": "leaves flower lawn bed hedge tree beans roses planted watered gardener",
    "sea": "ship water deck sail anchor boat nets harbour captain sailor",
    "railway": "train timetable platform engine carriages wagons tunnel junction guard",
}
TOPIC_OF = {word: topic for topic, words in KEYWORDS.items() for word in words.split()}


def rule(sentence: str) -> str:
    """Topic of the last keyword, or the empty string."""
    found = [TOPIC_OF[word] for word in re.findall(r"\w+", sentence) if word in TOPIC_OF]
    return found[-1] if found else ""


y_rules = np.array([rule(sentence) for sentence in train])
given = y_rules != ""
wrong = y_rules[given] != y_train[given]
print(
    f"{given.sum()} of {len(train)} sentences have a label; {wrong.mean():.0%} of those are wrong"
)
for sentence, topic in zip(train[:8], y_rules[:8], strict=True):
    print(f"  {topic or '(none)':9s} {sentence}")

# %%
# Hide the rules from the classifier
# ----------------------------------
# A classifier that sees the keywords learns the rules, and then finds nothing wrong with what they
# say. Without the keywords it has to tell the topics by the other words. That alone is worth a lot
# to a logistic regression that believes every label.

ordinary, hidden = list(ENGLISH_STOP_WORDS), [*ENGLISH_STOP_WORDS, *TOPIC_OF]
for name, words in (("keywords seen", ordinary), ("keywords hidden", hidden)):
    model = make_pipeline(TfidfVectorizer(stop_words=words), LogisticRegression())
    model.fit(train[given], y_rules[given])
    print(f"logistic regression, {name:15s}  test accuracy {model.score(test, y_test):.3f}")

# %%
# Learn which labels to trust
# ---------------------------
# Here the defaults of ``CLIDMUClassifier`` are not enough: some 500 sentences of a hundred words
# can be learned by heart, and the network learns many of the wrong labels. Stronger weight decay
# keeps it from that. ``noisy_label_scorer`` sees the difference, by labels of the rules alone.

pipe = make_pipeline(TfidfVectorizer(stop_words=hidden), CLIDMUClassifier(random_state=0))
grid = {"clidmuclassifier__weight_decay": ["auto", 0.1]}
search = GridSearchCV(pipe, grid, cv=2, scoring=noisy_label_scorer)
search.fit(train[given], y_rules[given])
print("mean scores", search.cv_results_["mean_test_score"].round(2), "so", search.best_params_)

pipe.fit(train[given], y_rules[given])
for name, model in (("defaults", pipe), ("chosen", search.best_estimator_)):
    auroc = roc_auc_score(wrong, model[-1].noise_scores_)
    print(
        f"CLIDMUClassifier, {name:8s}  test accuracy {model.score(test, y_test):.3f}, "
        f"AUROC of the noise scores {auroc:.3f}"
    )

# %%
# The labels to look at first, with the topics that they should have:

best = search.best_estimator_
issues = find_label_issues(best)
print(f"{len(issues.index)} labels are under suspicion, {wrong[issues.index].mean():.0%} rightly")
for row in issues.index[:8]:
    topics = f"{y_rules[given][row]} -> {best[-1].suggested_labels_[row]}"
    print(f"  {topics:18s} {train[given][row]}")

# %%
# Sentences that no rule labels get a topic from the trained pipeline, and the logistic regression,
# a smaller model to put to work, is trained on the same labels by their trust.

unlabeled = train[~given]
print(f"topics of unlabelled sentences: {best.score(unlabeled, y_train[~given]):.0%} right")
model = make_pipeline(TfidfVectorizer(stop_words=hidden), LogisticRegression())
trust = best[-1].sample_weights_
model.fit(train[given], y_rules[given], logisticregression__sample_weight=trust)
print(f"logistic regression, weighted by trust  test accuracy {model.score(test, y_test):.3f}")

# %%
# What the rules do to each topic, as estimated from the labels of the rules alone:

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
NoiseScoreDisplay.from_estimator(best, wrong=wrong, ax=left)
left.set_title("noise scores of the labels")
NoiseMatrixDisplay.from_estimator(best, ax=right)
right.set_title(f"estimated noise matrix: noise rate {best[-1].noise_rate_:.1%}")

figure.savefig("text.png", dpi=120)
print("figure: text.png")
