"""What the answers are worth: agreement, reliability, and every labeller's figures."""
