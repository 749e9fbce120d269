"""What an evaluation found, as plain data for `evaluation.json`."""

INTERVAL = "95%: mean ± 1.96 standard errors over the trials; of shares of trials, Wilson's"
