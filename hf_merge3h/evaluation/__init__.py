"""Measure base, experts and merged model over helpfulness, honesty and harmlessness, and say what the merge did."""
