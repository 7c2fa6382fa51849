"""Small fast tokenizers of every family, trained on a few sentences."""

import itertools

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
CORPUS = [
    *(
        f"in {place} the {what} is {how} , but the film {does}"
        for place, what, how, does in itertools.product(
            ("Ashford", "Milton"),
            ("plot", "cast", "ending"),
            ("dull", "moving", "anything but clever"),
            ("works", "drags"),
        )
    ),
    "naïve café — 漢字 \u200b 🙂🙂",
    "don't  stop\n\nnow",
]
ROBERTA = processors.RobertaProcessing(("</s>", 3), ("<s>", 2), add_prefix_space=True)
BERT = processors.TemplateProcessing(
    single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 2), ("</s>", 3)]
)
SPM = [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]


def build(model, trainer, normalizer, pre_tokenizer, post_processor=BERT, added=()) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.train_from_iterator(CORPUS, trainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False))
    if post_processor is not None:
        tokenizer.post_processor = post_processor
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token", "mask_token"), SPECIAL, strict=True))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids", "token_type_ids", "attention_mask"], **names
    )
    fast.add_tokens(list(added))
    return fast


def bpe(pre_tokenizer, normalizer=None, **options):
    return build(models.BPE(unk_token="<unk>"), trainers.BpeTrainer, normalizer, pre_tokenizer, **options)


def unigram(pre_tokenizer, normalizer=None, **options):
    def trainer(**settings):
        return trainers.UnigramTrainer(unk_token="<unk>", **settings)

    return build(models.Unigram(), trainer, normalizer, pre_tokenizer, **options)


MAKERS = {
    "RoBERTa": lambda: bpe(pre_tokenizers.ByteLevel(add_prefix_space=True), post_processor=ROBERTA),
    "ModernBERT": lambda: bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC(), added=["  ", "   "]),
    "XLM-R": lambda: unigram(
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
        normalizers.Sequence(SPM),
        post_processor=ROBERTA,
    ),
    "DeBERTa-v2": lambda: unigram(
        pre_tokenizers.Sequence([pre_tokenizers.Punctuation(behavior="isolated"), pre_tokenizers.Metaspace()]),
        normalizers.Sequence(
            [normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.NFC(), normalizers.Strip(left=False)]
        ),
    ),
    "ALBERT": lambda: unigram(
        pre_tokenizers.Metaspace(),
        normalizers.Sequence([normalizers.Replace("``", '"'), normalizers.StripAccents(), normalizers.Lowercase()]),
    ),
    "undivided": lambda: unigram(pre_tokenizers.Metaspace(split=False)),
    "no special tokens": lambda: bpe(pre_tokenizers.Whitespace(), post_processor=None),
    "phrases": lambda: bpe(pre_tokenizers.ByteLevel(), added=["the plot is", AddedToken("dull", rstrip=True)]),
    "strips": lambda: bpe(pre_tokenizers.Whitespace(), normalizers.Replace(Regex("film .* is"), "")),
}
DIVIDED = ("BERT", "RoBERTa", "ModernBERT", "XLM-R", "DeBERTa-v2", "ALBERT")
