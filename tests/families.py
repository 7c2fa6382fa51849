"""Small configurations of every type of encoder that is not refused."""

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

SMALL = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
FAMILIES = {
    "bert": {},
    "roberta": {"pad_token_id": 1, "max_position_embeddings": 66},
    "mpnet": {"pad_token_id": 1, "max_position_embeddings": 66},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 48},
    "electra": {"embedding_size": 16},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    "albert": {"embedding_size": 16},
    "modernbert": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    "xlm-roberta": {"pad_token_id": 1, "max_position_embeddings": 66},
}
# What makes the other types small; those named in FAMILIES are small as they are.
OTHERS = {
    "xlm": {"emb_dim": 32, "n_layers": 2, "n_heads": 2, "n_words": 120, "pad_index": 1},
    "flaubert": {"emb_dim": 32, "n_layers": 2, "n_heads": 2, "n_words": 120, "pad_index": 1},
    "longformer": {"attention_window": 8},
    "mobilebert": {"intra_bottleneck_size": 32, "embedding_size": 16, "true_hidden_size": 32},
    "big_bird": {"block_size": 4, "num_random_blocks": 1, "max_position_embeddings": 68},  # of whole blocks
    "eurobert": {"bos_token_id": 1, "eos_token_id": 2},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "esm": {"mask_token_id": 3},
    "squeezebert": {
        "embedding_size": 32,
        **dict.fromkeys(("q_groups", "k_groups", "v_groups", "post_attention_groups"), 1),
        **dict.fromkeys(("intermediate_groups", "output_groups"), 1),
    },
    "convbert": {"embedding_size": 32},
}
REFUSED = {"fnet", "funnel", "modernvbert", "mra", "neomme", "perceiver", "reformer", "tapas", "ultravbert"}
ENCODER_DECODERS = {"bart", "mbart", "mvp"}
TYPES = sorted({config.model_type for config in MODEL_FOR_MASKED_LM_MAPPING} - REFUSED - ENCODER_DECODERS)


def small_config(model_type, **changes):
    """A small configuration of any type; 66 positions, of which RoBERTa's kin leave 64."""
    common = {**SMALL, "max_position_embeddings": 66, "pad_token_id": 1}
    own = {**FAMILIES.get(model_type, {}), **OTHERS.get(model_type, {})}
    return AutoConfig.for_model(model_type, **{**common, **own, **changes})
