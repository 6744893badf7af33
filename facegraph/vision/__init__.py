"""What happens in a picture and what is where: captioners and segmenters behind two seams."""
