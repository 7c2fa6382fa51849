"""The embedded demo: two small generated tasks and a small encoder built from a config, so that nothing is fetched.

Split between training, validation and test: the sentence templates (whole combinations of credit, frame, wrapper and
clause shapes, or of place, opening, voice and negation), the scenes (who did what to which thing) and the proper names.
Shared, or nobody could know them: polarity words, synonyms, function words, the single parts of templates.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import accumulate, product
from math import prod
from string import ascii_lowercase
from typing import Any, NamedTuple

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedConfig, PreTrainedTokenizerFast, RobertaPreLayerNormConfig

SPLITS = ("train", "validation", "test")
# Reviews take two passes: more passes over fewer rows teach the rows, not the grammar. Pairs profit from repetition.
NUM_ROWS = {
    "reviews": {"train": 40000, "validation": 1000, "test": 300},
    "pairs": {"train": 20000, "validation": 1000, "test": 300},
}
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# Proper names have two parts, so that a name first met in validation still consists of known word pieces.
STEMS = ("ash", "brook", "clay", "elm", "fair", "hart", "lang", "mill", "north", "wood")
ENDINGS = ("bury", "field", "ford", "ham", "ley", "ton", "well", "worth")

ASPECTS = ("plot", "script", "acting", "cast", "score", "ending", "dialogue", "pacing", "story", "humour")
ADJECTIVES = {
    1: ("charming", "gripping", "moving", "clever", "vivid", "tender", "brilliant", "graceful"),
    -1: ("dull", "clumsy", "tedious", "shallow", "lifeless", "bland", "messy", "crude"),
}
VERBS = {1: ("convinces", "delights", "shines", "works"), -1: ("disappoints", "bores", "drags", "irritates")}


class Part(NamedTuple):
    """A part of a review's template."""

    text: str
    sign: int
    weight: int = 1


# A shape keeps (+1) or flips (-1) the polarity of its word, a wrapper that of its clause. Keeping is the commoner, so
# that plain reviews are there to learn the words from.
SHAPES = (
    Part("the {aspect} is {adjective}", 1, 3),
    Part("the {aspect} is deeply {adjective}", 1, 3),
    Part("the {aspect} is nothing if not {adjective}", 1, 3),
    Part("the {aspect} could not be more {adjective}", 1, 3),
    Part("the {aspect} truly {verb}", 1, 3),
    Part("the {aspect} always {verb}", 1, 3),
    Part("the {aspect} is not {adjective}", -1),
    Part("the {aspect} is hardly {adjective}", -1),
    Part("the {aspect} is anything but {adjective}", -1),
    Part("the {aspect} is far from {adjective}", -1),
    Part("the {aspect} never {verb}", -1),
    Part("the {aspect} hardly ever {verb}", -1),
)
WRAPPERS = (
    Part("{clause}", 1, 6),
    Part("it is clear that {clause}", 1),
    Part("nobody can deny that {clause}", 1),
    Part("nobody can claim that {clause}", -1),
    Part("it is wrong that {clause}", -1),
)
# The label is the polarity of {main}; the sign is that of {other} relative to it.
FRAMES = (
    Part("{other} and {main}", 1, 3),
    Part("{main} , and {other}", 1, 3),
    Part("{other} ; besides , {main}", 1, 3),
    Part("{other} , but {main}", -1),
    Part("although {other} , {main}", -1),
    Part("{main} , although {other}", -1),
    Part("{other} ; still , {main}", -1),
    Part("{main} , even if {other}", -1),
)
CREDITS = (
    Part("{review}", 0),
    Part("in this film by {name} , {review}", 0),
    Part("with {name} directing , {review}", 0),
)

# The words for each meaning of each slot of a scene, the commonest meaning first.
MEANINGS = {
    "agent": (
        ("doctor", "physician"),
        ("lawyer", "attorney"),
        ("teacher", "instructor"),
        ("thief", "burglar"),
        ("sailor", "mariner"),
    ),
    "action": (
        ("bought", "purchased"),
        ("fixed", "repaired"),
        ("found", "discovered"),
        ("cleaned", "washed"),
        ("wrecked", "destroyed"),
    ),
    "thing": (
        ("car", "automobile"),
        ("picture", "painting"),
        ("sofa", "couch"),
        ("boat", "ship"),
        ("lamp", "lantern"),
    ),
}
NEGATIONS = ("never", "not once", "at no time")
VOICES = (
    "the {agent} {negation} {action} the {thing}",
    "the {thing} was {negation} {action} by the {agent}",
    "it was the {agent} who {negation} {action} the {thing}",
    "what the {agent} {negation} {action} was the {thing}",
)
OPENINGS = ("{event}", "they say {event}", "{event} , it seems")
PLACES = ("{sentence}", "in {name} , {sentence}", "{sentence} near {name}")
NEGATION_RATE = 0.25
# What each difference between the two meanings takes off the grade 5 (which ends at 0), and how often it occurs.
PENALTIES = {"agent": 1.5, "action": 1.5, "thing": 1.5, "negation": 2.0}
DIFFERENCE_RATES = {"agent": 0.4, "action": 0.4, "thing": 0.4, "negation": 0.15}


def demo_rows(task: str, split: str) -> dict[str, list[Any]]:
    """The columns of one split of one demo task, the same on every machine.

    Args:
        task: `reviews` (sentence, label 0 or 1) or `pairs` (sentence1, sentence2, label 0 to 5).
        split: `train`, `validation` or `test`; the labels of `test` are -1, as in GLUE.

    Raises:
        ValueError: for another task or split.
    """
    makers = {"reviews": _reviews, "pairs": _pairs}
    for name, value, wanted in (("task", task, tuple(makers)), ("split", split, SPLITS)):
        if value not in wanted:
            raise ValueError(f"{name} is {value!r}; the demo has {', '.join(wanted)}")
    rows: dict[tuple[str, ...], float] = {}
    for texts, label in makers[task](random.Random(f"{task} {split}"), split):
        rows.setdefault(texts, label)
        if len(rows) == NUM_ROWS[task][split]:
            break
    labels = list(rows.values())
    if split == "test":
        labels = [type(label)(-1) for label in labels]
    texts_by_column = dict(zip(_text_columns(task), map(list, zip(*rows, strict=True)), strict=True))
    return {**texts_by_column, "label": labels, "idx": list(range(len(rows)))}


def _text_columns(task: str) -> tuple[str, ...]:
    return ("sentence",) if task == "reviews" else ("sentence1", "sentence2")


def split_share(items: Sequence[Any], split: str) -> list[Any]:
    """The items that belong to `split`: 70 % for training, 15 % each for validation and test, by a seeded shuffle."""
    shuffled = random.Random(0).sample(items, len(items))
    first, second = round(0.7 * len(items)), round(0.85 * len(items))
    return {"train": shuffled[:first], "validation": shuffled[first:second], "test": shuffled[second:]}[split]


def names(split: str) -> list[str]:
    """The directors and places of a split."""
    return split_share([stem + ending for stem, ending in product(STEMS, ENDINGS)], split)


def review_templates(split: str) -> list[tuple[Part, ...]]:
    """The (credit, frame, wrapper, main shape, other shape) templates of a split."""
    return split_share(list(product(CREDITS, FRAMES, WRAPPERS, SHAPES, SHAPES)), split)


def pair_templates(split: str, negated: bool) -> list[tuple[str, ...]]:
    """The (place, opening, voice, negation) templates of a split."""
    return split_share(list(product(PLACES, OPENINGS, VOICES, NEGATIONS if negated else ("",))), split)


def scenes(split: str) -> list[tuple[int, ...]]:
    """The (agent, action, thing) scenes of a split, as indices of meanings."""
    return split_share(list(product(*(range(len(words)) for words in MEANINGS.values()))), split)


def _reviews(rng: random.Random, split: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Endless (texts, label) rows of the reviews task, the labels alternating."""
    templates, directors = review_templates(split), names(split)
    cumulative = list(accumulate(prod(part.weight for part in parts) for parts in templates))
    while True:
        for label in (0, 1):
            credit, frame, wrapper, main, other = rng.choices(templates, cum_weights=cumulative)[0]
            polarity, aspects = 2 * label - 1, rng.sample(ASPECTS, 2)
            review = frame.text.format(
                main=wrapper.text.format(clause=_clause(rng, main, aspects[0], polarity * wrapper.sign)),
                other=_clause(rng, other, aspects[1], polarity * frame.sign),
            )
            yield (credit.text.format(review=review, name=rng.choice(directors)),), label


def _clause(rng: random.Random, shape: Part, aspect: str, polarity: int) -> str:
    adjective, verb = (rng.choice(words[polarity * shape.sign]) for words in (ADJECTIVES, VERBS))
    return shape.text.format(aspect=aspect, adjective=adjective, verb=verb)


def _pairs(rng: random.Random, split: str) -> Iterator[tuple[tuple[str, ...], float]]:
    """Endless (texts, label) rows of the pairs task; both sentences name the same place."""
    known, places = scenes(split), names(split)
    templates = {negated: pair_templates(split, negated) for negated in (False, True)}
    cumulative = list(accumulate(1 / prod(index + 1 for index in scene) for scene in known))
    allowed = set(known)
    while True:
        differences = {slot for slot, rate in DIFFERENCE_RATES.items() if rng.random() < rate}
        # Only the scenes are drawn again until both are of this split: the differences keep their rates.
        while True:
            scene = rng.choices(known, cum_weights=cumulative)[0]
            other = _changed(rng, scene, differences)
            if other in allowed:
                break
        negated = rng.random() < NEGATION_RATE
        meanings = ((scene, negated), (other, negated != ("negation" in differences)))
        place = rng.choice(places)
        texts = tuple(_sentence(rng, rng.choice(templates[no]), indices, place) for indices, no in meanings)
        yield texts, max(0.0, 5.0 - sum(PENALTIES[slot] for slot in differences))


def _changed(rng: random.Random, scene: tuple[int, ...], differences: set[str]) -> tuple[int, ...]:
    """`scene` with another meaning in each slot of `differences`."""
    slots = zip(scene, MEANINGS.items(), strict=True)
    return tuple((i + rng.randrange(1, len(w))) % len(w) if slot in differences else i for i, (slot, w) in slots)


def _sentence(rng: random.Random, template: tuple[str, ...], scene: tuple[int, ...], name: str) -> str:
    place, opening, voice, negation = template
    words = {slot: rng.choice(w[i]) for i, (slot, w) in zip(scene, MEANINGS.items(), strict=True)}
    event = voice.format(**words, negation=negation)
    return " ".join(place.format(sentence=opening.format(event=event), name=name).split())


def _word_pieces(vocabulary: dict[str, int] | None) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return tokenizer


def demo_tokenizer() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer trained on the training texts of both tasks."""
    columns = [demo_rows(task, "train")[column] for task in ("reviews", "pairs") for column in _text_columns(task)]
    draft = _word_pieces(None)
    # The frequency lies between the proper names' (below 1,100), which so are learned in pieces, as those first met in
    # validation are read, and the other words' (above 1,400). Naming the inner letters fixes their numbers, which
    # otherwise follow a hash map's order and decide between equally frequent merges.
    trainer = trainers.WordPieceTrainer(
        vocab_size=1000,
        min_frequency=1250,
        special_tokens=[*SPECIAL_TOKENS, *(f"##{letter}" for letter in ascii_lowercase)],
        show_progress=False,
    )
    draft.train_from_iterator((text for column in columns for text in column), trainer)
    # A second tokenizer with that vocabulary, where the inner letters are no special tokens.
    tokenizer = _word_pieces(draft.get_vocab())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=126,  # the encoder's positions start at 1
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def demo_encoder_config(vocab_size: int) -> PreTrainedConfig:
    """A small encoder that learns both tasks from scratch in minutes on two cores.

    Layer norms come before the blocks, the initial weights are of the order of 1 / sqrt(hidden size) and nothing is
    dropped: each shortens the time before attention first links the two sentences of a pair.
    """
    return RobertaPreLayerNormConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=8,
        intermediate_size=256,
        max_position_embeddings=128,
        type_vocab_size=2,
        initializer_range=0.08,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=SPECIAL_TOKENS.index("[PAD]"),
        bos_token_id=SPECIAL_TOKENS.index("[CLS]"),
        eos_token_id=SPECIAL_TOKENS.index("[SEP]"),
    )
