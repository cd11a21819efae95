"""From a decoded Hugging Face config.json to a model graph."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from .errors import ModelError
from .fields import Fields, shown
from .graph import ModelGraph
from .launch import launch_facts

MAX_FIELDS = 10_000


def read_config(document: object, name: str = "") -> ModelGraph:
    """The graph of the model that a configuration describes; nothing that it leaves open is guessed.

    The family is that of `architectures`, or of `_class_name` or `model_type` where there are none. Fields that no size
    depends on are not looked at. Raises ModelError, one line naming the field, for an unknown architecture, a missing
    field, a value of the wrong type or range, and sizes that contradict each other.
    """
    from .families import ARCHITECTURES

    if not isinstance(document, Mapping):
        raise ModelError(f"a model config must be an object of fields but got {shown(document)}")
    if len(document) > MAX_FIELDS:
        raise ModelError(f"a model config must have at most {MAX_FIELDS} fields but got {len(document)}")
    architecture = _architecture(document)
    graph = ARCHITECTURES[architecture](Fields(document, architecture), name)
    told = launch_facts(document)
    return msgspec.structs.replace(graph, dropout=bool(told.hidden_dropout or told.attention_dropout))


def _architecture(document: Mapping[str, object]) -> str:
    from .families import ARCHITECTURES, MODEL_TYPES

    listed = document.get("architectures")
    if listed is not None:
        if not isinstance(listed, list | tuple) or not listed or not isinstance(listed[0], str):
            raise ModelError(f"field architectures must be a list of names but got {shown(listed)}")
        if listed[0] not in ARCHITECTURES:
            raise _unknown("architectures", listed[0], ARCHITECTURES)
        return listed[0]
    if "_class_name" in document:  # how diffusers names a family
        name = document["_class_name"]
        if not isinstance(name, str):
            raise ModelError(f"field _class_name must be a name but got {shown(name)}")
        if name not in ARCHITECTURES:
            raise _unknown("_class_name", name, ARCHITECTURES)
        return name
    model_type = document.get("model_type")
    if model_type is None:
        raise ModelError("field architectures is missing: it (or model_type) must name the model's family")
    if not isinstance(model_type, str):
        raise ModelError(f"field model_type must be a name but got {shown(model_type)}")
    if model_type not in MODEL_TYPES:
        raise _unknown("model_type", model_type, MODEL_TYPES)
    return MODEL_TYPES[model_type]


def _unknown(field: str, value: str, known: Mapping[str, object]) -> ModelError:
    from difflib import get_close_matches

    near = get_close_matches(value[:64], known, n=3)
    hint = f"nearest known: {', '.join(near)}" if near else f"known are {len(known)}, {', '.join(sorted(known)[:4])} …"
    return ModelError(f"field {field} names an unknown family {shown(value)}: {hint}")
