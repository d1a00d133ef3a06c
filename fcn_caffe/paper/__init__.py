"""The paper's statements as code: an audit of its claims, the experiments that measure them, a report of both."""
