"""What the training guides print, word for word; `test_guides.py` runs it."""

from __future__ import annotations

CE_INFONCE_COMMAND = r"""
python main_clip.py \
    --model vim_tiny_patch16_224_clip_prompts \
    --batch-size 128 \
    --data-path /path/to/dataset \
    --output_dir ./output/ce_infonce_test \
    --main-loss-type ce_infonce \
    --contrast-weight 0.5 \
    --infonce-temp 0.07 \
    --aux-losses center \
    --aux-weights 0.1 \
    --prompts-per-class 5
"""
CE_INFONCE_FLAGS = """
--main-loss-type ce_infonce  # Specify the use of CE+InfoNCE combined loss
--contrast-weight 0.5        # Set the weight for InfoNCE loss (default 0.5, meaning InfoNCE loss\
 weight is half of CE loss)
--infonce-temp 0.07          # Temperature parameter for InfoNCE loss (optional, default 0.07)
"""
AUXILIARY_FLAGS = """
--aux-losses center arcface  # Add center loss and ArcFace loss as auxiliary losses
--aux-weights 0.1 0.2        # Set weights for corresponding auxiliary losses
"""

PROXY_SETTINGS = {
    "1, CE only": """
# train.py
loss_type = 'CE'
""",
    "2, Proxy-Anchor only": """
# train.py
loss_type = 'proxy'
proxy_type = 'ProxyAnchorLoss'
proxy_alpha = 32.0
proxy_delta = 0.1
""",
    "3, combined": """
# train.py
loss_type = 'combined'
proxy_type = 'ProxyAnchorLoss'
proxy_alpha = 32.0
proxy_delta = 0.1
lambda_combined = 0.5  # 50% CE + 50% Proxy
""",
    "4, combined": """
# train.py
loss_type = 'combined'
proxy_type = 'ProxyAnchorLoss'
proxy_alpha = 32.0
proxy_delta = 0.1
lambda_combined = 0.7  # 70% CE + 30% Proxy
""",
    "5, focal": """
# train.py
loss_type = 'combined'
proxy_type = 'FocalStyleProxyAnchorLoss'  # Hard example mining
proxy_alpha = 32.0
proxy_delta = 0.1
lambda_combined = 0.5
""",
    "in general": """
loss_type = 'combined'
proxy_type = 'ProxyAnchorLoss'
lambda_combined = 0.5
""",
}
PROXY_BANNER = """
TRAINING CONFIGURATION
======================================================================
Loss Type: combined
Proxy Type: ProxyAnchorLoss
Proxy α (alpha): 32.0
Proxy δ (delta): 0.1
λ (lambda): 0.50
  → CE weight: 0.50
  → Proxy weight: 0.50
"""
PROXY_TAGS = ["Loss/Total", "Loss/CE", "Loss/Proxy"]

# Of this command only the loss is ours; the rest of it is about a model of sequences.
INFONCE_FLAGS = r"""
    --use_infonce \
    --infonce_temperature 0.2
"""

SUPERCLIP_CONFIG = """
[
  {
    "image_encoder_name": "resnet18",
    "text_encoder_name": "clip:ViT-B/32",
    "embed_dim": 512,
    "batch_size": 32,
    "epochs": 100,
    "learning_rate": 1e-4,
    "weight_decay": 0.01,
    "temperature": 0.07,
    "img_size": 224,
    "augmentation": "standard",
    "num_workers": 4,
    "use_amp": true,
    "gpu_id": 0,
    "save_best": true,
    "use_cv": true,
    "n_splits": 5,
    "random_state": 42,
    "early_stopping_patience": null,
    "early_stopping_min_delta": 0.001,
    "early_stopping_monitor": "val_loss",
    "class_texts_file": "class_texts_hip_prosthesis.json",
    "use_weighted_sampling": true,
    "weight_method": "inverse_freq",
    "weight_smooth_factor": 1.0,
    
    // SuperCLIP 参数
    "use_superclip_loss": true,           // 启用 SuperCLIP 损失
    "class_loss_weight": 1.0,            // 分类损失权重
    "contrastive_loss_weight": 1.0        // 对比损失权重
  }
]
"""  # noqa: W293 - as it is printed
SUPERCLIP_CONFIG_IN_FULL = """
[
  {
    "image_encoder_name": "resnet18",
    "text_encoder_name": "clip:ViT-B/32",
    "embed_dim": 512,
    "batch_size": 32,
    "epochs": 100,
    "learning_rate": 1e-4,
    "weight_decay": 0.01,
    "temperature": 0.07,
    "img_size": 224,
    "augmentation": "standard",
    "num_workers": 4,
    "use_amp": true,
    "gpu_id": 0,
    "save_best": true,
    "use_cv": true,
    "n_splits": 5,
    "random_state": 42,
    "early_stopping_patience": 10,
    "early_stopping_min_delta": 0.001,
    "early_stopping_monitor": "val_loss",
    "class_texts_file": "class_texts_hip_prosthesis.json",
    "use_weighted_sampling": true,
    "weight_method": "inverse_freq",
    "weight_smooth_factor": 1.0,
    "use_superclip_loss": true,
    "class_loss_weight": 1.0,
    "contrastive_loss_weight": 1.0
  }
]
"""
SUPERCLIP_FRAGMENT = """
{
  "use_superclip_loss": true,
  "use_weighted_sampling": true,
  "weight_method": "inverse_freq",
  "weight_smooth_factor": 1.0
}
"""
SUPERCLIP_WEIGHTS = [
    "class_loss_weight=1.0, contrastive_loss_weight=1.0",
    "class_loss_weight=1.5, contrastive_loss_weight=0.8",
    "class_loss_weight=0.8, contrastive_loss_weight=1.5",
]
SUPERCLIP_COMMAND = r"""
python train_clip.py \
    --data-dir single_label_data \
    --output-dir checkpoints/clip_models/superclip_test \
    --config-file train_clip_config.json \
    --multi-config \
    --gpu-id 0
"""
SUPERCLIP_COMMAND_WITHOUT_FILE = r"""
python train_clip.py \
    --data-dir single_label_data \
    --output-dir checkpoints/clip_models/superclip_test \
    --image-encoder resnet18 \
    --text-encoder clip:ViT-B/32 \
    --use-cv \
    --n-splits 5 \
    --use-superclip-loss \
    --class-loss-weight 1.0 \
    --contrastive-loss-weight 1.0 \
    --class-texts-file class_texts_hip_prosthesis.json \
    --use-weighted-sampling \
    --gpu-id 0
"""
LAUNCHER_COMMAND = "bash run_train_clip.sh"
LAUNCHER_SETTINGS = [
    'DATA_DIR="single_label_data"',
    'OUTPUT_BASE_DIR="checkpoints/clip_models"',
    'CONFIG_FILE="train_clip_config.json"',
    "USE_MULTI_CONFIG=true",
    "GPUS=(6)",
]
SUPERCLIP_RESULTS = "checkpoints/clip_models/resnet18_clip_ViT-B_32/"
SUPERCLIP_FILES = ["config.json", "cv_summary.json", "folds_info.json"]
SUPERCLIP_FOLD_FILES = ["checkpoint_best.pth", "checkpoint_latest.pth", "history.json"]
SUPERCLIP_LOG = "logs/clip_training/resnet18_clip_ViT-B_32_gpu6_*.log"
SUPERCLIP_EPOCH = """
Train Loss: 2.6845 (Class: 1.5028, Contrastive: 1.1816), Train Acc: 12.25%
Val Loss: 2.6845 (Class: 1.5028, Contrastive: 1.1816), Val Acc: 14.11%, Val mAP: 1.57%
"""
SUPERCLIP_BARS = """
Epoch 1 [Train]: 100%|██████████| 202/202 [00:18<00:00, 11.26it/s, loss=2.6845, cls=1.5028,\
 clip=1.1816, acc=12.25%]
[Val]: 100%|██████████| 202/202 [00:12<00:00, 16.18it/s, loss=2.6845, cls=1.5028, clip=1.1816,\
 acc=14.11%]
"""
