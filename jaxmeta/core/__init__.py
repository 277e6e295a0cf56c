"""The pure heart: contracts, the inner loop, inner gradients, the learner."""
