"""Those who watch: each takes the frozen record of a finished request. No step of a request imports them."""
