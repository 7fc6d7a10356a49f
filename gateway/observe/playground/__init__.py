"""The page at `/`, to try the router in a browser: three files, as they are sent."""
