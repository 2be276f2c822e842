"""Many settings of the same photos -> a finding."""
