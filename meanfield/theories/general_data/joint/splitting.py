"""Pieces of codes that were left out, and codes that are cut off from others they were merged with."""

from __future__ import annotations

import numpy as np

from meanfield.theories.general_data.joint.codes import NEGLIGIBLE, SAME_PHI, Codes, Cuts, JointNeuron, Start, pattern
from meanfield.theories.general_data.joint.neuron import Cut, Joint
from meanfield.theories.general_data.joint.pieces import beside, between, places
from meanfield.validation import FloatArray

__all__ = ["regrow_pieces", "split_shoulder"]

_SHOULDERS = 8  # samples at which a code is tried to be cut off


def regrow_pieces(neuron: JointNeuron, codes: Codes, tolerance: float) -> Codes:
    """With pieces that were left out as negligible and may have become heavier."""
    known: dict[int, list[Cuts]] = {}
    for joint in codes.joints:
        known.setdefault(joint.family, []).append(joint.cuts)
    wanted: dict[tuple[int, Cuts], Joint] = {}
    for joint in codes.joints:
        for i, cut in enumerate(joint.cuts):
            part = (*joint.cuts[:i], cut.flipped)
            missing = not any(cuts[: i + 1] == part for cuts in known[joint.family])
            if missing and joint.log_z + neuron.flipped(joint, codes.t, i) > codes.top + NEGLIGIBLE:
                wanted.setdefault((joint.family, part), joint)

    def job(item: tuple[tuple[int, Cuts], Joint]) -> list[Joint]:
        (family, part), joint = item
        for sites in ((joint.q, joint.nu), pattern(joint.phi)):
            new = neuron.solve(codes.t, sites, tolerance, cuts=part, family=family)
            if new is not None:
                return [new]
        cuts = places(joint, codes.t, neuron.activation)
        return neuron.pieces(joint._replace(cuts=part), codes.t, cuts, tolerance)

    found = [joint for group in neuron.map(job, wanted.items()) for joint in group]
    return Codes(codes.t, (*codes.joints, *found))


def split_shoulder(neuron: JointNeuron, codes: Codes, phi: FloatArray, tolerance: float) -> Codes:
    """With a code of activations phi (P,) that has become the shoulder of another one cut off from that.

    Two codes that approach each other merge for EP although one Gaussian does not cover both.
    """
    near = min(codes.joints, key=lambda joint: float(np.mean((joint.phi - phi) ** 2)))
    gap = phi - near.phi
    rising = 1 if neuron.ends[1] >= neuron.ends[0] else -1
    for i in np.argsort(-np.abs(gap))[:_SHOULDERS]:
        likely = rising * int(np.sign(gap[i]))
        for side in (likely, -likely):
            pair = _split_at(neuron, codes.t, near, phi, int(i), side, tolerance)
            if pair is not None:
                rest = (joint for joint in codes.joints if joint is not near)
                return Codes(codes.t, (*rest, *pair))
    return codes


def _split_at(
    neuron: JointNeuron, t: FloatArray, near: Joint, phi: FloatArray, sample: int, side: int, tolerance: float
) -> tuple[Joint, Joint] | None:
    """A code on one side of a cut and that of activations phi on the other."""
    row = neuron.matrix[sample]

    def beyond(cut: Cut, start: Start) -> Joint | None:
        found = neuron.solve(t, start, tolerance, cuts=(*near.cuts, cut), family=near.family)
        return found if found is not None and float(np.mean((found.phi - phi) ** 2)) < SAME_PHI else None

    here = float(row @ near.weights)
    far = beyond(beside(near, sample, here, side), pattern(phi))
    if far is None:
        return None
    cut = between(near, far, sample, (here, float(row @ far.weights)), side)
    far = beyond(cut, (far.q, far.nu))
    rest = neuron.solve(t, (near.q, near.nu), tolerance, cuts=(*near.cuts, cut.flipped), family=near.family)
    return None if far is None or rest is None or not neuron.alike(rest, near) else (rest, far)
