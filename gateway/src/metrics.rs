//! Counters and histograms for Prometheus, with bounded labels.
