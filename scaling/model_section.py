"""The [model] section of a study: a name, and what the architecture of that name reads."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

from pydantic import PlainValidator, SerializeAsAny, TypeAdapter, ValidationInfo
from typing_extensions import is_typeddict

from models.architecture import DEFAULT, Settings, architecture
from scaling.study_errors import Words


def _own_settings(value: Any, info: ValidationInfo) -> Settings:
    """[model] as the architecture that it names reads it; presets leave less to say."""
    if isinstance(value, Settings):
        return value
    if not isinstance(value, dict):
        raise ValueError("must be a section such as [model]")
    name = value.get("architecture", DEFAULT)
    if not isinstance(name, str):
        raise ValueError(f"architecture = {name!r} must be the name of one")
    settings = settings_class(name, bool(info.context and info.context["presets"]))
    # An error of a field is reported with its own place, as of a section that is read directly.
    given = json.dumps({**value, "architecture": name})
    return TypeAdapter(settings).validate_json(given)


def settings_class(name: str, presets: bool) -> type[Settings]:
    """What [model] may say of an architecture.

    Raises ValueError for one that is not installed, and for presets of one that has none.
    """
    family = architecture(name)
    if not presets:
        return family.settings
    if family.preset_settings is None:
        raise ValueError(f"architecture = {name!r} has no presets. Give [grid] params")
    return family.preset_settings


ModelSection = Annotated[SerializeAsAny[Settings], PlainValidator(_own_settings)]


def model_words(section: Any, presets: bool) -> Words:
    """What the section may say, where [grid] names presets and where it does not.

    Of an architecture that is not installed, what the default one reads.
    """
    name = section.get("architecture", DEFAULT) if isinstance(section, dict) else DEFAULT
    try:
        family = architecture(name)
    except (ValueError, TypeError):  # refused as it is
        family = architecture(DEFAULT)
    sized, published = family.settings, family.preset_settings
    settings = published if published and presets else sized
    known = {"model": [f.name for f in fields(settings)]}
    for field, hint in get_type_hints(settings).items():
        if is_typeddict(hint):
            known[f"model.{field}"] = [*get_type_hints(hint)]
    ignored = {f.name for f in fields(sized)} - {f.name for f in fields(settings)}
    return Words(known, {"model": family.usual}, ignored)
