"""What Grafana, and the page for operators, show: made from the code, for scripts/check to hold in step."""
