"""What siblings differ in: factors, which somebody chose, and findings, which nobody did."""
