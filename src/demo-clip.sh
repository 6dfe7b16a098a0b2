#!/bin/sh
# Makes src/demo.flv, the clip of `steadycast demo`: ten seconds that loop, below 1 MB.
# Needs ffmpeg with libx264. No B-frames and closed GOPs of one second, so that the loop has no seam.
set -eu
cd "$(dirname "$0")"
ffmpeg -v error -y \
  -f lavfi -i "testsrc2=size=640x360:rate=30:duration=10" \
  -f lavfi -i "sine=frequency=330:beep_factor=4:sample_rate=48000:duration=10" \
  -filter:v "drawbox=x=0:y=300:w=640:h=60:color=black@0.7:t=fill" \
  -c:v libx264 -profile:v main -preset veryslow -bf 0 -g 30 -keyint_min 30 -sc_threshold 0 \
  -b:v 380k -maxrate 500k -bufsize 500k -pix_fmt yuv420p \
  -c:a aac -b:a 48k -ac 1 -flvflags no_duration_filesize -f flv demo.flv
size=$(wc -c < demo.flv)
[ "$size" -lt 1000000 ] || { echo "demo.flv has $size bytes, more than 1 MB" >&2; exit 1; }
