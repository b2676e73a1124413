"""Secure aggregation: sums over sites of which nobody, the coordinator included, can see a single term.

Pairwise masks that cancel in the sum (Bonawitz et al., *Practical Secure Aggregation for Privacy-Preserving Machine
Learning*, CCS 2017), from one-time X25519 keys that each site signs with its long-term key. Masks are bound to the set
of sites and to everything that they have agreed on, and the sum of updates also needs a key of each site, which it
tells once for each update: so no update is ever in two sums that somebody can compute.

The coordinator relays all messages, and is trusted with none of them.
"""
