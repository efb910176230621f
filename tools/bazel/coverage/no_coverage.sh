#!/bin/sh
echo "coverage is not collected by this build" >&2
exit 0
