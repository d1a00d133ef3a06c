"""Probes: nets and solvers run small, beside arithmetic written out."""
