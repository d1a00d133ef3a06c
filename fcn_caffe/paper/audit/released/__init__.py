"""What is expected of the released nets and solvers, field by field."""
