"""From plans to an experiment: an arm a plan, the placebos that they are compared with, and what fits a budget."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ilp_service.changes import Change
from ilp_service.intervention.arms import Arm
from ilp_service.remedies import Plan, Price
from ilp_service.settings import InterventionSettings
from ilp_service.stages import digest_of
from ilp_service.training.pretrain import encode_texts

if TYPE_CHECKING:
    from ilp_service.training.recipe import Recipe

OTHER_SEED = "placebo:other_seed"
GENERAL_TEXT = "placebo:general_text"
EXPOSURES = "placebo:exposures"

NEAR = 0.1
"""Arms whose continued pre-training differs by less than this share of its tokens have one placebo."""


def design(
    plans: Sequence[Plan], recipe: Recipe, cause_of: Mapping[str, str], learned: Iterable[str], *, seed: int = 0
) -> tuple[Arm, ...]:
    """One remedy for each plan that treats anybody, then the placebos that they need.

    A remedy that reads documents is compared with reading as many tokens of general text; one that shows samples more
    often with as many further exposures of learned samples, drawn at random; any other with changing nothing. Where
    there is no general text, and for remedies that do several of these at once, the first that can be had is taken.

    Args:
        plans: What mitigations would do; ``mitigation`` names the arm.
        recipe: The training that is done again.
        cause_of: What each unlearned sample was attributed to, by its id.
        learned: Ids of samples that the diagnosed model has learned.
        seed: Of what is drawn for placebos.
    """
    arms: list[Arm] = []
    placebos: dict[str, Arm] = {}
    lengths = {row.sample_id: len(row.input_ids) for row in recipe.encode(recipe.samples)}
    shown = recipe.course(recipe.loop.seed).exposures
    for plan in plans:
        if not plan.treats:
            continue
        if (tokens := continued_tokens(plan.change, recipe)) and recipe.general is not None:
            placebo = _reading(tokens, placebos, plan)
        elif plan.change.exposures:
            spare = sorted(set(learned) - plan.change.sample_ids - set(plan.treats))
            placebo = _showing(plan, placebos, shown, lengths, [key for key in spare if shown.get(key)], seed)
        else:
            placebo = placebos.get(OTHER_SEED) or Arm(OTHER_SEED, "placebo", Change(), seed=_seed(OTHER_SEED))
        placebos[placebo.name] = placebo
        treats: dict[str, list[str]] = defaultdict(list)
        for key in plan.treats:
            treats[cause_of[key]].append(key)
        arms.append(
            Arm(
                name=plan.mitigation,
                kind="remedy",
                change=plan.change,
                treats={cause: tuple(keys) for cause, keys in sorted(treats.items())},
                placebo=placebo.name,
                price=plan.price,
                seed=_seed(plan.mitigation),
            )
        )
    return (*arms, *placebos.values())


def continued_tokens(change: Change, recipe: Recipe) -> int:
    """Tokens that continued pre-training reads for a change, general text included."""
    if not change.documents:
        return 0
    rows = encode_texts(recipe.tokenizer, [document.text for document in change.documents])
    told = sum(min(len(row), recipe.continued.max_length) for row in rows) * change.document_passes
    return round(told / (1 - (change.general_share or 0.0)))


def _seed(name: str) -> int:
    return int(digest_of(name)[:7], 16)


def _free(name: str, placebos: Mapping[str, Arm], plan: Plan) -> str:
    return name if name not in placebos else f"{name}:{plan.mitigation}"


def _reading(tokens: int, placebos: Mapping[str, Arm], plan: Plan) -> Arm:
    for placebo in placebos.values():
        if placebo.general_tokens and abs(placebo.general_tokens - tokens) <= NEAR * tokens:
            return placebo
    name = _free(GENERAL_TEXT, placebos, plan)
    return Arm(name, "placebo", Change(), general_tokens=tokens, price=Price(tokens), seed=_seed(name))


def _showing(
    plan: Plan,
    placebos: Mapping[str, Arm],
    shown: Mapping[str, int],
    lengths: Mapping[str, int],
    spare: Sequence[str],
    seed: int,
) -> Arm:
    """As many further exposures as the plan has, of other samples: one for each, again from the first if too few."""
    if not spare:
        return placebos.get(OTHER_SEED) or Arm(OTHER_SEED, "placebo", Change(), seed=_seed(OTHER_SEED))
    more = [(factor - 1) * shown.get(key, 0) for key, factor in sorted(plan.change.exposures.items())]
    drawn = np.random.default_rng([seed, 7]).permutation(len(spare)).tolist()
    given: dict[str, float] = defaultdict(float)
    for place, extra in enumerate(more):
        given[spare[drawn[place % len(drawn)]]] += extra
    change = Change(exposures={key: 1 + extra / shown[key] for key, extra in given.items()})
    for placebo in placebos.values():
        if placebo.change == change:
            return placebo
    name = _free(EXPOSURES, placebos, plan)
    tokens = round(sum(extra * lengths[key] for key, extra in given.items()))
    return Arm(name, "placebo", change, price=Price(tokens), seed=_seed(name))


def price_of(arm: Arm, base_tokens: int, seeds: int, prices: InterventionSettings) -> float:
    """What an arm costs at most under all its seeds, by the prices of the settings.

    Args:
        arm: The arm; documents and judgements are paid once, however many seeds there are.
        base_tokens: Tokens of the training as it was.
        seeds: How often it is trained.
        prices: Of a million tokens, a document and a judgement.
    """
    tokens = seeds * (base_tokens + arm.price.training_tokens)
    return (
        tokens / 1e6 * prices.token_price
        + arm.price.documents * prices.document_price
        + arm.price.judgements * prices.judgement_price
    )


def within_budget(
    arms: Sequence[Arm], budget: float, base_tokens: int, seeds: int, prices: InterventionSettings
) -> tuple[tuple[Arm, ...], dict[str, str]]:
    """The remedies that fit, cheapest for each treated sample first, with their placebos; and why others do not.

    A placebo is paid by the first arm that needs it.

    Returns:
        The arms that are kept, in their order; one sentence for each remedy that is left out, by its name.
    """
    by_name = {arm.name: arm for arm in arms}
    treated = {arm.name: sum(map(len, arm.treats.values())) for arm in arms}
    remedies = [arm for arm in arms if arm.kind == "remedy"]
    cost = {arm.name: price_of(arm, base_tokens, seeds, prices) for arm in arms}
    remedies.sort(key=lambda arm: (cost[arm.name] / max(treated[arm.name], 1), arm.name))
    kept: set[str] = set()
    spent, left_out = 0.0, {}
    for arm in remedies:
        new = [name for name in (arm.name, arm.placebo) if name is not None and name in by_name and name not in kept]
        wanted = sum(cost[name] for name in new)
        if spent + wanted > budget:
            left_out[arm.name] = (
                f"{arm.name} and its placebo would cost {wanted:.4g}; {max(budget - spent, 0):.4g} of the budget of "
                f"{budget:.4g} is left."
            )
            continue
        spent += wanted
        kept.update(new)
    return tuple(arm for arm in arms if arm.name in kept), left_out
