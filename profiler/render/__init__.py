"""From findings and timelines to what people see."""
