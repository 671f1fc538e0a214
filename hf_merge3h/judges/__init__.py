"""Who says whether a response is harmful, a refusal or made up."""
