"""Measuring how fast this is, against the way the original computes: `mmo bench train | learn | decode | …`.

    rows              synthetic rows with mini's lengths, and those of data/tiny
    padded            the padded way: fixed length, every head on every position, loops in Python
    growing           its decoding: caches that grow, one look at the device for every code
    flops             floating point operations, counted from the configuration
    clock             A B A B in one process, medians
    train, learn, decode, chain, precision, trace, load, shards, moe, features    one question each
    report            table and JSON
"""
