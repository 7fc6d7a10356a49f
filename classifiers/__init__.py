"""What a prompt is: tokenising, networks and decision math. No Triton and no HTTP in here."""
