"""The kinds of numbers that a study's fields hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from scaling.quantity import parse_count, parse_quantity

Quantity = Annotated[float, BeforeValidator(parse_quantity)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
# Of a corpus: a thousand tokens of a trillion. Less is no share of any.
Share = Annotated[float, Field(ge=1e-9, lt=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Whole = Annotated[int, BeforeValidator(parse_count)]
Count = Annotated[Whole, Field(ge=1, lt=2**31)]  # array sizes are 32 bits
Seed = Annotated[Whole, Field(ge=0, lt=2**32)]
Shots = Annotated[Whole, Field(ge=0, le=1000)]  # examples before a prompt
