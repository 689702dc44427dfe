"""proto"""

from __future__ import annotations

import torch

from launcher.peptide.residues import *


def soft_fragments(probs, masses, water):
    m = (probs * masses).sum(-1)  # B,T
    T = m.shape[1]
    before = torch.ones(T, T, device=m.device).triu()
    prefix = (m.unsqueeze(-1) * before).sum(1)  # sum_{j<=i}
    b = prefix[:, :-1] + ion_offset("b")
    y = prefix[:, -1:] - prefix[:, :-1] + ion_offset("y") - (0 if water else WATER)
    return b, y


def overlap(a, wa, b, wb, sigma):
    d = (a.unsqueeze(-1) - b.unsqueeze(-2)) / sigma
    return (torch.exp((-0.25 * d * d).clamp_min(-30)) * wa.unsqueeze(-1) * wb.unsqueeze(-2)).sum((-1, -2))


def cosine_loss(frag, wf, mz, inten, sigma):
    to = overlap(frag, wf, mz, inten, sigma)
    tt = overlap(frag, wf, frag, wf, sigma)
    oo = overlap(mz, inten, mz, inten, sigma)
    return 1 - to / (tt * oo).clamp_min(1e-12).sqrt()


def nll_loss(frag, wf, mz, inten, sigma, eps=1e-3):
    d = (frag.unsqueeze(-1) - mz.unsqueeze(-2)) / sigma
    like = (torch.exp((-0.5 * d * d).clamp_min(-30)) * (inten > 0).unsqueeze(-2)).sum(-1)
    per = -torch.log((eps + like) / (1 + eps))
    return (per * wf).sum(-1) / wf.sum(-1).clamp_min(1)


def evidence(prefix, precursor, masses, mz, inten, sigma, water, power=1.0):
    """(B,T,V)"""
    def near(frag):
        d = (frag.unsqueeze(-1) - mz[:, None, None, :]) / sigma
        return (torch.exp((-0.5 * d * d).clamp_min(-30)) * inten[:, None, None, :]).sum(-1)
    m = prefix.unsqueeze(-1) + masses
    b = m + ion_offset("b")
    y = precursor[:, None, None] - WATER - m + ion_offset("y") - (0 if water else WATER)
    return near(b), near(y)
