"""Adapter from AlignMix's golden vectors to the library: it holds no formula of its own."""

from __future__ import annotations

from mixwell.ops.sinkhorn import log_transport, mix_aligned, squared_distances


def alignmix(case):
    features, partner = case.inputs["feat"], case.draws["perm"]
    lam = case.draws["lam"].reshape(1)
    a = features.flatten(2).transpose(1, 2)
    b = a[partner]
    p = case.params
    log_plan, iterations = log_transport(squared_distances(a, b), p["eps"], p["max_iter"], p["thresh"])
    mixed = mix_aligned(a, b, lam, case.draws["coin"].reshape(1) > 0, log_plan, exact=False)
    return {
        "n_iter": iterations,
        "plan": log_plan.exp(),
        "mixed": mixed.transpose(1, 2).reshape(features.shape),
        "y_b": case.inputs["y"][partner],
        "lam_a": lam[0],
    }


ADAPTERS = {"alignmix": alignmix}
