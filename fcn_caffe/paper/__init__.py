"""The paper's statements as code: experiments that measure them, and the arithmetic of its learning rates."""
