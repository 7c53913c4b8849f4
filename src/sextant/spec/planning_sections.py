"""What the document tells `sextant plan` beside the load: costs, servers, own files. For `document.py`.

It informs planning alone; nothing that serves reads it. Flags of `sextant plan` win over it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sextant.spec.fields import FilePath, Positive, Section

Share = Annotated[float, Field(ge=0, le=1)]
Usd = Annotated[float, Field(ge=0)]


class PlanningCosts(Section):
    """What only you know of costs. What is left out is estimated where it can be, else named as left out."""

    power_usd_per_kwh: Usd | None = Field(None, description="Price of power.", examples=[0.09])
    pue: Annotated[float, Field(ge=1, le=10)] | None = Field(
        None, description="PUE of the hall: all power over that of the machines.", examples=[1.1]
    )
    co2_g_per_kwh: Usd | None = Field(None, description="CO2 of the grid, grams.")
    space_usd_per_month: Usd | None = Field(None, description="Rent of the space.")
    staff_usd_per_month: Usd | None = Field(None, description="People.")
    usd_per_h: Usd | None = Field(None, description="Rent of one accelerator.")
    price_usd: Usd | None = Field(None, description="Price of one accelerator.")
    most_usd_per_month: Positive | None = Field(None, description="Most that may be spent in a month.")


class PlanningServer(Section):
    """Each server that is there or will be bought. A plan warns of what falls short; unset is not checked."""

    cpu_sockets: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="CPU sockets; the rule is one for four accelerators."
    )
    memory_gib: Positive | None = Field(None, description="Host memory.")
    storage_gib: Positive | None = Field(None, description="Disk for models.")
    storage_gib_per_s: Positive | None = Field(None, description="How fast that disk reads.")
    network_gbit_per_s: Positive | None = Field(None, description="Network to the other servers.")


class Planning(Section):
    """What `sextant plan` goes by beside `workload` and `sites`."""

    precision: Literal["bf16", "fp8", "int8", "fp4", "int4", "q8", "q4", "q2"] | None = Field(
        None, description="Of the weights; unset: as the model is published."
    )
    kv_precision: Literal["bf16", "fp8"] | None = Field(
        None, description="Of the KV cache; unset: bf16, and fp8 for DeepSeek-V4, which runs with no other."
    )
    prefix_hit_share: Share | None = Field(
        None, description="Share of the input that the prefix cache holds, 0 to 1."
    )
    swing: Annotated[float, Field(ge=1, le=1000)] | None = Field(
        None, description="Peak load over mean load; 1 is steady."
    )
    end_to_end_ms: Positive | None = Field(None, description="Time wanted for a whole answer.")
    most_accelerators: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="Accelerators in all, at most."
    )
    split: bool = Field(
        False,
        description="Whether prefill and decode run on accelerators of their own, with a router before them; "
        "rendered for clusters, with vLLM and SGLang. `sextant plan` weighs it where this is false too.",
    )
    costs: PlanningCosts = Field(PlanningCosts(), description="What only you know of costs.")
    server: PlanningServer = Field(PlanningServer(), description="Each server that is there.")
    facts_file: FilePath | None = Field(
        None, description="TOML with models and accelerators of your own.", examples=["facts.toml"]
    )
    prices_file: FilePath | None = Field(None, description="TOML with prices of your own.")
    calibration_file: FilePath | None = Field(
        None, description="What `sextant plan --calibrate` wrote, to predict that machine by."
    )
