"""Measurement: real engines are started, loaded, watched and believed or not.

leases      whose hardware it is now
engine/     an engine process that cannot outlive its measurement
loadgen/    requests at their times, stamps, samples
definitions what every metric means
crosscheck  whether client and server tell the same story
runner      one trial, from lease to verdict
verdict     what several runs say about two configurations
"""
