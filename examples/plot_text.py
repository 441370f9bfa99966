"""
Weak supervision of texts
=========================

Sentences are labeled by keyword rules: a sentence with the word *oven* gets the topic *kitchen*.
Some of these labels are wrong, and many sentences get no label. ``CLIDMUClassifier`` is fitted to
them on the sparse matrix of a ``TfidfVectorizer``.
"""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from sklearn_clidmu import CLIDMUClassifier, NoiseScoreDisplay, find_label_issues

# %%
# Sentences
# ---------
# 800 sentences of four topics are made from a subject, a verb, an object, a place and a detail. The
# detail is independent of the topic, but may contain a keyword.

TOPICS = {
    "kitchen": (
        "The cook|My aunt|The baker|A hungry guest|The young chef|The dinner lady",
        "stirred|salted|tasted|warmed|served|burned|seasoned|reheated",
        "soup|sauce|stew|onions|potatoes|pie|omelette|pasta|broth|porridge|dumplings|roast",
        "at the stove|in the oven|in the canteen|at the counter|in a large pan|over a low flame",
    ),
    "garden": (
        "The gardener|Our neighbor|My grandfather|The new owner|A volunteer|The florist",
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
# Rules
# -----
# The last keyword in a sentence gives the label. Without a keyword the label is an empty string.

KEYWORDS = {
    "kitchen": "pot bread oven pan stove soup sauce stew pie roast cook chef",
    "garden": "leaves flower lawn bed hedge tree beans roses planted watered gardener",
    "sea": "ship water deck sail anchor boat nets harbour captain sailor",
    "railway": "train timetable platform engine carriages wagons tunnel junction guard",
}
TOPIC_OF = {word: topic for topic, words in KEYWORDS.items() for word in words.split()}


def rule(sentence: str) -> str:
    """Return the topic of the last keyword, or an empty string."""
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
# Remove the keywords
# -------------------
# A classifier that sees the keywords learns the rules and their errors. Without the keywords it has
# to use the other words. This alone improves a logistic regression.

ordinary, hidden = list(ENGLISH_STOP_WORDS), [*ENGLISH_STOP_WORDS, *TOPIC_OF]
for name, words in (("keywords seen", ordinary), ("keywords hidden", hidden)):
    model = make_pipeline(TfidfVectorizer(stop_words=words), LogisticRegression())
    model.fit(train[given], y_rules[given])
    print(f"logistic regression, {name:15s}  test accuracy {model.score(test, y_test):.3f}")

# %%
# Fit
# ---
# The network is trained on the sentences with a label, without the keywords.

pipe = make_pipeline(TfidfVectorizer(stop_words=hidden), CLIDMUClassifier(random_state=0))
pipe.fit(train[given], y_rules[given])
clf = pipe[-1]
print(
    f"CLIDMUClassifier  test accuracy {pipe.score(test, y_test):.3f}, "
    f"AUROC of the noise scores {roc_auc_score(wrong, clf.noise_scores_):.3f}"
)

# %%
# The labels to check first, and the suggested topics:

issues = find_label_issues(pipe)
print(f"{len(issues)} label issues, {wrong[issues.index].mean():.0%} of them wrong labels")
for row in issues.index[:8]:
    topics = f"{y_rules[given][row]} -> {clf.suggested_labels_[row]}"
    print(f"  {topics:18s} {train[given][row]}")

# %%
# The fitted pipeline predicts topics of the sentences without a label. Its sample weights also
# improve the logistic regression, a smaller model.

unlabeled = train[~given]
print(f"topics of sentences without a label: {pipe.score(unlabeled, y_train[~given]):.0%} right")
model = make_pipeline(TfidfVectorizer(stop_words=hidden), LogisticRegression())
weights = clf.sample_weights_
model.fit(train[given], y_rules[given], logisticregression__sample_weight=weights)
print(f"logistic regression, sample weights   test accuracy {model.score(test, y_test):.3f}")

# %%
# Noise scores and transition matrix, estimated from the labels of the rules alone:

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
NoiseScoreDisplay.from_estimator(pipe, wrong=wrong, ax=left)
left.set_title("noise scores of the labels")
matrix = ConfusionMatrixDisplay(pipe[-1].transition_matrix_, display_labels=pipe.classes_)
matrix.plot(ax=right, cmap="Blues", values_format=".2f")
title = f"estimated transition matrix, noise rate {pipe[-1].noise_rate_:.1%}"
right.set(title=title, xlabel="given label", ylabel="true class")

figure.savefig("text.png", dpi=120)
print("figure: text.png")
